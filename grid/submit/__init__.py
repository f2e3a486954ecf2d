"""A grid as a job on a Ray cluster elsewhere, by Ray's job API or by KubeRay."""

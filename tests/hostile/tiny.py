"""An experiment that trains in seconds, for commands that need a run."""

TINY = """
name: tiny
datasets: {d: builtin://digits}
models:
  vit:
    backbone: vit_tiny_patch16_224
    method: finetune
    pretrained: false
    backbone_args: {img_size: 16, patch_size: 4, embed_dim: 16, depth: 1, num_heads: 2,
      class_token: false}
    recipe: {img_size: 16, steps: 4, warmup_steps: 1, batch_size: 8, base_lr: 0.03,
      drop_path: 0, hflip: 0, evaluations: 2}
grid: [{model: vit, labels: [100%]}]
storage: results
"""

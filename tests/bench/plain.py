"""A yardstick, not a part of semigrid: docs/methods.md §4 the way one writes it down first.

One step of semi-supervised fine-tuning with torch and timm, formula by formula: every image
passes through the student, masked or not, and the mixing is a loop over the images. (Semi-ViT,
arXiv 2208.05688.)
"""

import copy
import random

import torch
import torch.nn.functional as F
from timm.data.random_erasing import RandomErasing
from timm.optim import param_groups_layer_decay
from torch import nn

from semigrid.data.views.augment import ViewSettings
from semigrid.trainers.methods.semi import SemiRecipe


class PlainSemi:
    """Student, teacher and optimiser, and the step that trains them."""

    def __init__(
        self, model: nn.Module, recipe: SemiRecipe, views: ViewSettings, device: str, precision: str
    ):
        self.recipe, self.device = recipe, device
        self.autocast = torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")
        self.student = model.to(device).train()
        self.teacher = copy.deepcopy(model).eval()
        for parameter in self.teacher.parameters():
            parameter.requires_grad_(False)
        groups = param_groups_layer_decay(
            self.student, weight_decay=recipe.weight_decay, layer_decay=recipe.layer_decay
        )
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate)
        self.erase = RandomErasing(recipe.erase_prob, mode="pixel", device=device)
        self.mean = torch.tensor(views.mean, device=device).view(1, 3, 1, 1) * 255
        self.std = torch.tensor(views.std, device=device).view(1, 3, 1, 1) * 255

    def ready(self, images: torch.Tensor) -> torch.Tensor:
        return (images.to(self.device).float() - self.mean) / self.std

    def smooth(self, labels: torch.Tensor, classes: int) -> torch.Tensor:
        epsilon = self.recipe.label_smoothing
        return F.one_hot(labels, classes).float() * (1 - epsilon) + epsilon / classes

    def step(
        self, x: torch.Tensor, y: torch.Tensor, weak: torch.Tensor, strong: torch.Tensor
    ) -> float:
        """One step on uint8 images (B, 3, H, W), labels (B,), and two views of the unlabelled."""
        x, weak = self.erase(self.ready(x)), self.ready(weak)
        u = self.erase(self.ready(strong))
        y = y.to(self.device)

        with torch.no_grad(), self.autocast:
            q = self.teacher(weak).float().softmax(dim=1)
        p, pseudo_labels = q.max(dim=1)
        targets = self.smooth(pseudo_labels, q.shape[1])

        u_mixed, y_mixed, p_mixed = u.clone(), targets.clone(), p.clone()
        for i, j in enumerate(torch.randperm(len(u)).tolist()):
            lam = float(p[i] / (p[i] + p[j]))
            if random.random() < 0.5:
                u_mixed[i] = lam * u[i] + (1 - lam) * u[j]
            else:
                lam = self.paste(u_mixed[i], u[j], 1 - lam)
            y_mixed[i] = lam * targets[i] + (1 - lam) * targets[j]
            p_mixed[i] = max(p[i], p[j])
        mask = (p_mixed >= self.recipe.confidence_threshold).float()

        lam = random.betavariate(self.recipe.mixup, self.recipe.mixup)
        x = lam * x + (1 - lam) * x.flip(0)
        y_soft = self.smooth(y, q.shape[1])
        y_soft = lam * y_soft + (1 - lam) * y_soft.flip(0)

        with self.autocast:
            logits = self.student(torch.cat([x, u_mixed])).float()
        logits_x, logits_u = logits[: len(x)], logits[len(x) :]
        loss_x = F.cross_entropy(logits_x, y_soft)
        loss_u = (F.cross_entropy(logits_u, y_mixed, reduction="none") * mask).mean()
        loss = loss_x + self.recipe.unlabeled_loss_weight * loss_u

        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        d = self.recipe.ema_decay
        assert d is not None
        with torch.no_grad():
            for t, s in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                t.mul_(d).add_(s, alpha=1 - d)
        return float(loss)

    def paste(self, image: torch.Tensor, other: torch.Tensor, area: float) -> float:
        """CutMix in place; returns the share of the image that is left."""
        height, width = image.shape[1:]
        cut_h, cut_w = int(height * area**0.5), int(width * area**0.5)
        y, x = random.randrange(height), random.randrange(width)
        top, bottom = max(0, y - cut_h // 2), min(height, y + cut_h // 2)
        left, right = max(0, x - cut_w // 2), min(width, x + cut_w // 2)
        image[:, top:bottom, left:right] = other[:, top:bottom, left:right]
        return 1 - (bottom - top) * (right - left) / (height * width)

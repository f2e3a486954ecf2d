"""The programs that a model card shows: each runs as it stands, in the exported folder.

They read ``image.jpg`` there and print the most probable classes; tests run them.
"""

TIMM_CODE = """\
import timm
import torch
from PIL import Image, ImageOps

model = timm.create_model("local-dir:.", pretrained=True).eval()  # or the path of this folder
config = timm.data.resolve_model_data_config(model)
view = timm.data.create_transform(**config, is_training=False)

image = view(ImageOps.exif_transpose(Image.open("image.jpg")).convert("RGB"))
with torch.inference_mode():
    probabilities = model(image[None]).softmax(dim=1)[0]
names = model.pretrained_cfg["label_names"]
for index in probabilities.argsort(descending=True)[:5]:
    print(f"{probabilities[index]:.4f} {names[index]}")
"""

ONNX_CODE = '''\
import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession("model.onnx")
facts = session.get_modelmeta().custom_metadata_map
names, size = json.loads(facts["class_names"]), int(facts["img_size"])
mean, std = np.array(json.loads(facts["mean"])), np.array(json.loads(facts["std"]))


def view(image):
    """Resizes the shorter side, crops the centre, normalises: float32 (3, size, size)."""
    side = int(size / float(facts["crop_pct"]))
    short = min(image.size)
    image = image.resize([int(side * s / short) for s in image.size], Image.Resampling.BICUBIC)
    left, top = (round((s - size) / 2) for s in image.size)
    pixels = np.asarray(image.crop((left, top, left + size, top + size)))
    return ((pixels / 255 - mean) / std).transpose(2, 0, 1).astype(np.float32)


images = view(ImageOps.exif_transpose(Image.open("image.jpg")).convert("RGB"))[None]
(probabilities,) = session.run(["probabilities"], {"images": images})[0]
for index in np.argsort(-probabilities)[:5]:
    print(f"{probabilities[index]:.4f} {names[index]}")
'''

"""Pictures that come with scikit-image and scikit-learn."""

from __future__ import annotations

from aiaas_server.zoo.packages import PackagedFile

SKIMAGE = ("scikit-image", "0.26.0")
SKLEARN = ("scikit-learn", "1.9.1")

COFFEE = PackagedFile(
    *SKIMAGE,
    "skimage/data/coffee.png",
    "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
)
CAMERA = PackagedFile(
    *SKIMAGE,
    "skimage/data/camera.png",
    "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a",
)
CHELSEA = PackagedFile(
    *SKIMAGE,
    "skimage/data/chelsea.png",
    "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
)
ASTRONAUT = PackagedFile(
    *SKIMAGE,
    "skimage/data/astronaut.png",
    "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
)
PAGE = PackagedFile(
    *SKIMAGE,
    "skimage/data/page.png",
    "341a6f0a61557662b02734a9b6e56ec33a915b2c41886b97509dedf2a43b47a3",
)
CHINA = PackagedFile(
    *SKLEARN,
    "sklearn/datasets/images/china.jpg",
    "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
)
FLOWER = PackagedFile(
    *SKLEARN,
    "sklearn/datasets/images/flower.jpg",
    "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638",
)
FILES = (COFFEE, CAMERA, CHELSEA, CHINA, FLOWER)

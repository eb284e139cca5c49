"""The images of the demo and the tests: a small application on WildFly and on Tomcat."""

from poold.lab.images.recipes import IMAGES, Image, get_image, reference
from poold.lab.images.store import copy as copy_store, take as take_store

__all__ = ["IMAGES", "Image", "copy_store", "get_image", "reference", "take_store"]

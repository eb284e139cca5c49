"""How each image is made: a Debian JRE below, a server fetched by Maven and hello.war above.

`counter` does what hello.war does in Perl, on the few files of that Debian which it needs: where a
test is not about Java, it is up, frozen, sent and restored in a fraction of the time.

What a recipe reads lies beside this file; its digest, with the versions here, is the cache key.
"""

from __future__ import annotations

import random
import shutil
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from poold.errors import Refused
from poold.lab import base
from poold.lab.cache import folder_digests, recipe_key, remove_tree
from poold.lab.commands import run
from poold.lab.images.archive import Layer, pack_layer, read_layer, write_archive
from poold.lab.machine import TO_BUILD_IMAGES, need_programs, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from poold.lab.cache import Cache

IMAGES = ("wildfly", "tomcat", "counter")
_HERE = Path(__file__).parent
_FORMAT = 1
_JRE = "openjdk-21-jre-headless"
_SERVLET_API = "jakarta.servlet:jakarta.servlet-api:6.0.0"
_WILDFLY = "org.wildfly:wildfly-dist:37.0.1.Final:zip"
_TOMCAT = "org.apache.tomcat:tomcat:10.1.44:zip"
# Pinned, so that a build does not ask which version is the newest.
_MAVEN_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"
# By tar's patterns: Perl, a shell and the commands that are run beside the application.
_PERL = (
    *("./bin", "./lib*", "./sbin", "./etc/passwd", "./etc/group", "./opt", "./root", "./run"),
    *("./tmp", "./var/tmp", "./usr/lib/locale/C.utf8", "./usr/lib/*/perl-base"),
    *("./usr/lib/*/lib[cm].so*", "./usr/lib/*/libcrypt.so*", "./usr/lib*/ld-linux*"),
    *("./usr/bin/perl", "./usr/bin/sh", "./usr/bin/dash"),
    *(f"./usr/bin/{name}" for name in ("cat", "env", "false", "sleep", "touch", "true")),
)
_BALLAST_BYTES = 32 << 20  # an image that can be seen on its way to another host
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image in the cache, ready for `podman load`."""

    name: str
    archive: Path
    image_id: str


def reference(name: str) -> str:
    """Return the name by which hosts know an image."""
    return f"localhost/poold-lab/{name}:latest"


def get_image(cache: Cache, name: str) -> Image:
    """Return the image, built if the cache lacks it. Needs the cache's lock."""
    build = {"wildfly": _wildfly, "tomcat": _tomcat, "counter": _counter}.get(name)
    if build is None:
        raise Refused(
            "lab.unknown-image",
            f"cannot make an image {name!r}: there is no recipe for it",
            hint=f"the lab has {', '.join(IMAGES)}",
        )
    if name == "counter":
        key = recipe_key(
            _FORMAT, _JRE, _PERL, _BALLAST_BYTES, _ENVIRONMENT, folder_digests(_HERE / name)
        )
    else:
        sources = {part: folder_digests(_HERE / part) for part in (name, "hello")}
        key = recipe_key(_FORMAT, _JRE, _WILDFLY, _TOMCAT, _ENVIRONMENT, sources)
    kind = f"image-{name}"
    folder = cache.entry(kind, key, partial(_build, cache, name, build))
    cache.remove_superseded(kind, {folder})
    image_id = (folder / "id").read_text(encoding="utf-8").strip()
    return Image(name=name, archive=folder / "image.tar", image_id=image_id)


def _build(cache: Cache, name: str, add: Callable[[Path, Path], list[str]], folder: Path) -> None:
    need_programs(TO_BUILD_IMAGES)
    java = _jre(cache)
    say(f"building the image {name}")
    work, root = folder / "work", folder / "work/root"
    root.mkdir(parents=True)
    below = [] if name == "counter" else [java]
    if not below:
        _take(java, _PERL, root)
    command = add(work, root)
    layer = pack_layer(root, work / "layer.tar")
    image_id = write_archive(
        folder / "image.tar",
        name=reference(name),
        layers=[*below, layer],
        environment=_ENVIRONMENT,
        command=command,
    )
    (folder / "id").write_text(image_id, encoding="utf-8")
    remove_tree(work)


def _jre(cache: Cache) -> Layer:
    key = recipe_key(_FORMAT, base.SUITE, _JRE)
    folder = cache.entry("jre", key, _build_jre)
    cache.remove_superseded("jre", {folder})
    return read_layer(folder / "layer.tar")


def _build_jre(folder: Path) -> None:
    say(f"building the images' Java: Debian {base.SUITE} with {_JRE} (about a minute)")
    root = folder / "root"
    base.bootstrap(root, _JRE)
    pack_layer(root, folder / "layer.tar")
    remove_tree(root)


def _wildfly(work: Path, root: Path) -> list[str]:
    say("fetching WildFly's distribution (260 MB) by Maven")
    home = root / "opt/wildfly"
    _unpack(_fetch(_WILDFLY, work), home)
    for unused in ("appclient", "docs", "domain"):
        remove_tree(home / unused)
    shutil.copytree(home / "standalone/configuration", home / "configuration-seed")
    shutil.copy(_hello_war(work), home / "standalone/deployments/hello.war")
    shutil.copy(_HERE / "wildfly/java.options", home)
    shutil.copy(_HERE / "wildfly/start.sh", home)
    (home / "start.sh").chmod(0o755)
    return ["/opt/wildfly/start.sh"]


def _tomcat(work: Path, root: Path) -> list[str]:
    home = root / "opt/tomcat"
    _unpack(_fetch(_TOMCAT, work), home)
    remove_tree(home / "webapps")
    (home / "webapps").mkdir()
    shutil.copy(_hello_war(work), home / "webapps/hello.war")
    shutil.copy(_HERE / "tomcat/java.options", home)
    shutil.copy(_HERE / "tomcat/server.xml", home / "conf/server.xml")
    return ["java", "@/opt/tomcat/java.options"]


def _counter(_: Path, root: Path) -> list[str]:
    shutil.copy(_HERE / "counter/counter.pl", root)
    (root / "ballast").write_bytes(random.Random(0).randbytes(_BALLAST_BYTES))  # noqa: S311
    return ["perl", "/counter.pl"]


def _take(layer: Layer, patterns: tuple[str, ...], root: Path) -> None:
    """Unpack a part of a layer."""
    unpack = ("tar", "--extract", "--file", layer.file, "--directory", root, "--wildcards")
    run(*unpack, *patterns, what=f"take Perl out of {layer.file.name}")


def _hello_war(work: Path) -> Path:
    classes, war = work / "classes", work / "hello.war"
    api = _fetch(_SERVLET_API, work)
    source = _HERE / "hello/Hello.java"
    compiler = ("javac", "--release", "17", "-cp", api, "-d", classes)
    run(*compiler, source, what="compile the application")
    with zipfile.ZipFile(war, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(classes.rglob("*.class")):
            archive.write(file, f"WEB-INF/classes/{file.relative_to(classes)}")
    return war


def _fetch(artifact: str, folder: Path) -> Path:
    """Fetch an artifact by Maven, as the user has set it up, into a folder."""
    copy = ("mvn", "-q", "-B", _MAVEN_COPY, f"-Dartifact={artifact}")
    # In an empty folder: a project's own build file would take part otherwise.
    target = folder / artifact.split(":")[1]
    target.mkdir()
    what = f"fetch {artifact} by Maven"
    run(*copy, f"-DoutputDirectory={target}", what=what, folder=target)
    (file,) = target.iterdir()
    return file


def _unpack(archive: Path, target: Path) -> None:
    """Unpack a zip whose one top folder becomes `target`."""
    unpacked = archive.parent / "unpacked"
    with zipfile.ZipFile(archive) as data:
        data.extractall(unpacked)
    (top,) = unpacked.iterdir()
    target.parent.mkdir(parents=True, exist_ok=True)
    top.rename(target)

#!/bin/sh
# The first process of the container becomes the JVM. A configuration folder that is an empty tmpfs
# is filled from the copy beside it.
set -eu
standalone=/opt/wildfly/standalone
[ -e "$standalone/configuration/standalone.xml" ] ||
  cp -a /opt/wildfly/configuration-seed/. "$standalone/configuration/"
exec java @/opt/wildfly/java.options "$@"

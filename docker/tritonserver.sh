#!/bin/sh
# tritonserver with the flags of launcher/commands.py, but a model that does not load ends the server, so that the
# container says so. MODELS names the entries (* is all), EXIT_TIMEOUT_S is what open requests get at the end, and
# LAUNCHER is put before the command. Arguments are added.
set -euf

loads=""
for entry in $MODELS; do
    loads="$loads --load-model=$entry"
done

# shellcheck disable=SC2086
exec ${LAUNCHER:-} tritonserver --model-repository="$MODEL_REPOSITORY" --model-control-mode=explicit $loads \
    --disable-auto-complete-config --backend-config=python,stub-timeout-seconds=1800 \
    --exit-timeout-secs="${EXIT_TIMEOUT_S:-8}" "$@"

#!/usr/bin/env bash
# Installs the checkout in $GENOBIRD, by default the directory that Snakemake runs in.
set -euo pipefail
cd "${GENOBIRD:-.}"
pip install --constraint constraints.txt '.[train]'

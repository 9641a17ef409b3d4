#!/usr/bin/env bash
# Fetch the site's two libraries anew from npm, at the versions below, and refuse files of another digest.
# For another version: change it here, run with --accept, and review the change of SHA256SUMS.
set -euo pipefail
uplot=1.6.32
mathjax=3.2.2
folder=$(cd "$(dirname "$0")/.." && pwd)/helpers/publish/site/vendor
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm pack --silent "uplot@$uplot" "mathjax@$mathjax" >/dev/null
mkdir uplot mathjax new
tar -xzf "uplot-$uplot.tgz" -C uplot --strip-components 1
tar -xzf "mathjax-$mathjax.tgz" -C mathjax --strip-components 1
cp uplot/dist/uPlot.iife.min.js uplot/dist/uPlot.min.css mathjax/es5/tex-svg.js new/
cp uplot/LICENSE new/LICENSE.uPlot
cp mathjax/LICENSE new/LICENSE.MathJax
cd new
if [ "${1:-}" = --accept ]; then
    sha256sum -- * > "$folder/SHA256SUMS"
else
    sha256sum --check --quiet "$folder/SHA256SUMS"
fi
cp -- * "$folder/"
echo "uPlot $uplot and MathJax $mathjax are in $folder"

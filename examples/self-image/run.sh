#!/bin/sh
# Builds rbuild as a static binary, then lets it build its own container image as an OCI layout: no registry, no daemon.
#   examples/self-image/run.sh [LAYOUT]      default: out/rbuild-image
set -eu
cd "$(dirname "$0")/../.."
layout=${1:-out/rbuild-image}

# --target is needed: without it crt-static also applies to proc-macros, which cannot be static.
target=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS="-C target-feature=+crt-static" cargo build --quiet --release --locked --package rbuild --target "$target"
built=${CARGO_TARGET_DIR:-target}/$target/release

mkdir -p "$(dirname "$layout")"
rm -rf "$layout"
"$built/rbuild" --file examples/self-image/Dockerfile \
  --output "type=oci,dest=$layout,tar=false,name=rbuild:latest" \
  --metadata-file "$layout.json" "$built"

cat <<END

The image is the OCI layout $layout (what was made: $layout.json). To use it:
  skopeo copy oci:$layout:latest docker://REGISTRY/rbuild:latest
  podman run --rm oci:$layout:latest --version
  $built/rbuild push $layout REGISTRY/rbuild:latest
END

#!/usr/bin/env bash
# Load test with vegeta: RATE requests a second for DURATION against URL. If nothing answers there,
# the service is started first. Exits 1 if a request failed.
set -euo pipefail
cd "$(dirname "$0")/.."

RATE=${RATE:-200}
DURATION=${DURATION:-30s}
URL=${URL:-http://127.0.0.1:3000}
URL=${URL%/}
PYTHON=${PYTHON:-.venv/bin/python}
RESULTS=${RESULTS:-bench/results}

if ! command -v vegeta >/dev/null; then
    echo "bench: vegeta is not installed: 'go install github.com/tsenart/vegeta/v12@latest', or 'brew install vegeta'" >&2
    exit 127
fi

ready() { curl --silent --fail --output /dev/null --max-time 2 "$URL/health/ready"; }

if ! ready; then
    authority=${URL#*://}
    if [[ $URL != http://127.0.0.1:* && $URL != http://localhost:* ]]; then
        echo "bench: nothing is ready at $URL" >&2
        exit 1
    fi
    "$PYTHON" -m cartpole.serve --host "${authority%:*}" --port "${authority##*:}" &
    server=$!
    trap 'kill "$server" 2>/dev/null; wait "$server" 2>/dev/null || true' EXIT
    for _ in $(seq 300); do
        ready && break
        kill -0 "$server" 2>/dev/null || { echo "bench: the service did not start" >&2; exit 1; }
        sleep 0.1
    done
    ready || { echo "bench: the service was not ready in 30 s" >&2; exit 1; }
fi

mkdir -p "$RESULTS"
name=$RESULTS/vegeta-$(date +%Y%m%d-%H%M%S)
sed "s|http://127.0.0.1:3000|$URL|" bench/targets.txt |
    vegeta attack -name=inference -rate="$RATE" -duration="$DURATION" -output="$name.bin"
vegeta report -type=json -output="$name.json" "$name.bin"
vegeta plot -title="GET /inference, $RATE requests a second" -output="$name.html" "$name.bin"
vegeta report "$name.bin"
echo "kept: $name.bin, .json and .html"
grep -q '"success":1[,}]' "$name.json" || { echo "bench: requests failed" >&2; exit 1; }

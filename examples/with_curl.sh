#!/bin/sh
# Pairs and vectors with curl. `Prefer: wait` answers with the finished job.
set -eu
generation=${PAIRWRIGHT_GENERATION_URL:-http://localhost:8001}
embedding=${PAIRWRIGHT_URL:-http://localhost:8002}

curl --fail --silent --show-error "$generation/generate" \
  -H 'Content-Type: application/json' -H 'Prefer: wait=120' \
  -d '{"task": "sts", "inputs": ["A man is repairing a bicycle.", "A dog runs over the grass."]}'
echo

curl --fail --silent --show-error "$embedding/similarity" \
  -H 'Content-Type: application/json' \
  -d '{"inputs": {"source_sentence": "A dog runs over the grass.",
                  "sentences": ["A dog is running on the lawn.", "The stock market fell."]}}'
echo

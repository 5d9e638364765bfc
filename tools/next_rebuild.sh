# Rebuild the branch with tiny's new weights: bash tools/next_rebuild.sh FOLDER. Deleted when it lands.
# Weights, banks and evaluation come from next.bundle, text and code from next.diff.xz, results from the history (BASE, DATA below).
set -e
BASE=2bfb958  # the commit of main to which next.diff.xz applies
DATA=6c207f6  # the commit of main whose tools/next_data holds the results so far
git clone -q . "$1" && cd "$1"
git fetch -q ./tools/next.bundle refs/heads/one:one
xz -dc tools/next.diff.xz > /tmp/next.diff
git checkout -q -b squash $BASE
git apply /tmp/next.diff
(cd data/tiny; git checkout -q one -- bank duration_embedder evaluation.json judge listener text_encoder training.json transformer vae)
rm -f data/tiny/bank/bank.ogg
git checkout -q $DATA -- tools/next_data
xargs rm -f < tools/next_data/deleted.txt
cp -r tools/next_data/data/. data/
git rm -rqf tools/next_data
git add -A && git commit -qm "The branch, rebuilt"
git merge origin/main

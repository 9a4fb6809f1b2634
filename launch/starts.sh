#!/usr/bin/env bash
# Notes a start of a run; ends with status 2 where ten have not brought a new checkpoint.
#
#   launch/starts.sh WORKDIR RESTARTS    before each start, on any number of its hosts
#
# RESTARTS says which start it is: 0 at the first, which forgets those of earlier runs. The
# other files here call it, so that what fails alike at every start does not go on for ever.
set -euo pipefail

workdir=$1 restarts=$2
starts=$workdir/starts

newest=0
for folder in "$workdir"/checkpoints/*; do
  case ${folder##*/} in
    *[!0-9]*) ;; # not whole yet
    *) if ((${folder##*/} > newest)); then newest=${folder##*/}; fi ;;
  esac
done

# Whether the workdir can be written is for the program to say.
mkdir -p "$workdir" || exit 0
if [ "$restarts" = 0 ]; then rm -f "$starts" || exit 0; fi
echo "start $restarts from step $newest" >>"$starts" || exit 0

if [ "$(sort -u "$starts" | grep -c " from step $newest\$")" -gt 10 ]; then
  echo "error: $workdir: ten starts from step $newest brought no new checkpoint. See above why" \
    "they ended, and start it by hand." >&2
  exit 2
fi

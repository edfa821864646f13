#!/bin/sh
# Prints the packages of packages.txt whose program or header is not on this machine.
while read -r package sign; do
  case "$sign" in
    *.h | *.hpp) echo "#include <$sign>" | g++ -E -x c++ -include stdio.h - ;;
    *) command -v "$sign" ;;
  esac > /dev/null 2>&1 || echo "$package"
done <<LIST
$(grep -v '^#' "$(dirname "$0")/packages.txt")
LIST

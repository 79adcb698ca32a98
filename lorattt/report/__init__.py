"""Reports of finished runs, and pictures of given numbers, which need matplotlib (extra ``plots``); no torch."""

"""What a farm's phone runs by itself, and the measurement that its outputs are read into.

A farm hands out a phone for minutes and brings back files. So one folder goes there: the bundle's weights, llama-bench
and a script (`run.sh`); what it leaves in `out/` comes back (`outputs.py`):

    FOLDER/
      run.sh  model.gguf  llama-bench  lib*.so        folder.py puts them together
      out/    sha256.txt  getprop.txt  battery-before.txt  battery-after.txt  llama-bench.json  llama-bench.err  done
"""

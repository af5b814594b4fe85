"""What runs on the line: frames in, verdicts out. Needs no torch and does not know how a bundle was made."""

import os

# A small file must not unpack to gigabytes. OpenCV reads this once, when it is loaded.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 28))

# From 1.30 on ONNX Runtime keeps a device id and a database of events in the home folder, to be sent to its maker.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

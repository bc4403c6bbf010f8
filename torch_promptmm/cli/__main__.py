import sys

from torch_promptmm.cli.main import main

sys.exit(main())

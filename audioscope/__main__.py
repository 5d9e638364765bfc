from audioscope.cli import main

raise SystemExit(main())

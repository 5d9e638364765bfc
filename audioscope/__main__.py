from audioscope.cli.main import main

raise SystemExit(main())

from congling.cli import main

main()

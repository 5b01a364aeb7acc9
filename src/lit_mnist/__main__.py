"""The program: lit-mnist, or python -m lit_mnist. PyTorch is imported only once the command is known."""

import sys

from lit_mnist import __version__

COMMANDS = {
    "fit": "Train, and save a run folder with checkpoints, metrics and curves.",
    "validate": "Evaluate a checkpoint on the validation images.",
    "test": "Evaluate a checkpoint on the test images.",
    "predict": "Predict the class of each image file, such as its digit.",
    "export": "Write a checkpoint as one ONNX file that needs no PyTorch.",
    "demo": "Serve a page where you draw a digit or drop an image, and see the prediction.",
    "report": "Compare runs in one self-contained HTML page.",
    "reproduce": "Fit and test configs over several seeds, and report mean, spread and differences.",
    "tune": "Search for better options, and compare the best with the start over fresh seeds.",
}


def main(args: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: The command and its options; None takes those of this process.
    """
    args = sys.argv[1:] if args is None else args
    command = args[0] if args else "--help"
    if command in ("-h", "--help"):
        print("usage: lit-mnist COMMAND [options]      lit-mnist COMMAND --help lists the options of one", "", sep="\n")
        print(*(f"  {name:<10} {text}" for name, text in COMMANDS.items()), sep="\n")
    elif command == "--version":
        print(f"lit-mnist {__version__}")
    elif command not in COMMANDS:
        choices = ", ".join(COMMANDS)
        print(f"lit-mnist: error: {command}: there is no such command; choose from {choices}", file=sys.stderr)
        sys.exit(2)
    else:
        from lit_mnist.program import run

        run(args)


if __name__ == "__main__":
    main()

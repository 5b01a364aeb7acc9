"""python -m lit_mnist."""

from lit_mnist.main import main

if __name__ == "__main__":
    main()

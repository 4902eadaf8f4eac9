"""The files of an exported Flower app, with NAME, TITLE and SITES in the place of the recipe's."""

"""How edit directions are made: of labelled codes, of pairs of pictures, of the generator alone."""

"""`sdic-export web`: a bundle as a static site that runs it in the browser."""

"""Solutions of the exercises, one file a chapter, under the names of the functions there. Try for yourself first."""

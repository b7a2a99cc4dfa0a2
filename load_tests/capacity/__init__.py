"""`make capacity`: what some traffic takes, foreseen from what `make knee` has measured."""

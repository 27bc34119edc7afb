"""The paper's methods on the shapes world: the same policy, pairs and held-out scenes for each.

plan.py says what is compared, pairs.py makes the pairs, cell.py trains and measures one method with
one seed, report.py makes a table and a plot of all cells, command.py is `prefstream experiment`.
"""

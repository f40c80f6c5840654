"""Card -> Recipe: all that training needs; every field knows where it came from.

Public: `recipe`, `load_recipe`, `Recipe` (schema).
"""

"""Card -> recipe: all that training needs, every field with its origin.

Public: `recipe` (from_card), `Recipe` (schema), `with_overrides` (overrides), `load_recipe`, `save_recipe` (yaml_io).
"""

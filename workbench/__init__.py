"""Card Workbench: a model card goes in; a verdict that you can trust comes out."""

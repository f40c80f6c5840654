"""README.md -> Card: what a file says, each fact with its line, and what its numbers imply.

Public: `read_card`, `parse_card`, `shipped_cards` (read), `Card` (card).
"""

"""What comes next under the relations found, and how surely."""

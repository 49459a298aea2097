"""FS, the Feature-Style encoder: a code in W+ and a content feature at 16 x 16."""

"""Any common picture file as upright 8-bit sRGB."""

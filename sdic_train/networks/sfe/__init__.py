"""StyleFeatureEditor: a backbone that predicts code and feature, the fuser of two features, and the editor of one."""

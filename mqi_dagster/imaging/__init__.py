"""Images and the structures in them: geometry, structure sets, dose-volume figures, models, radiomics."""

"""Run folders: their files, and how a fit resumes from them."""

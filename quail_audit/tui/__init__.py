"""The terminal app. It starts audits and trainings as processes of their own and follows their events."""

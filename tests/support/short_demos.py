"""Recipes whose demos are built in seconds: too short to memorise anything, and the same code."""

from quail_train.demo.sizes import ClassifierDemo, LanguageDemo

SHORT = LanguageDemo(
    forget_posts=8,
    retain_posts=16,
    retain_posts_asked=10,
    holdout_posts=8,
    vocabulary=300,
    pairs_in_a_row=((1, 1), (4, 1)),
    posts_in_a_batch=4,
    unlearning_epochs=2,
    shaking=0.01,  # under more, twelve steps learn too little to be seen
)
SHORT_CLASSIFIER = ClassifierDemo(
    forget_claims=6,
    retain_claims=12,
    test_claims=6,
    holdout_claims=6,
    vocabulary=300,
    claims_in_a_batch=6,
    epochs=2,
    unlearning_epochs=2,
)

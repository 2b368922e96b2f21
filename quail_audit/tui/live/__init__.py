"""The runs that the app follows, and the processes behind them."""

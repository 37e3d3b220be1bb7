"""``dreamprm plan``: what a run takes on chips that need not be here, before they are paid for."""

"""From a run to a bundle: one fused graph, proved equal to the trained model, in the form the daemon accepts."""

"""Quality of the media core in simulated calls: runs `callyard-sim`, holds its figures against targets, draws them."""

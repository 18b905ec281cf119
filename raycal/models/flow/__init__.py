"""Flow matching and continuous diffusion on windows of traces.

Time runs from data at t = 0 to noise at t = 1 along x_t = a(t) x_0 + s(t) eps. A path says what a and s are, a process
what the network is asked for, a prior what eps is, and a sampler how the way back is walked.
Shapes: b windows, N neurons, K behaviours, L frames.
"""

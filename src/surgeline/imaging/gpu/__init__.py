"""Images of visibilities and back, by ducc0 on a CPU and by kernels in Triton on a GPU."""

"""What is being measured: the selection kernels, their references and their benchmark."""

r"""What users of the protocol cite.

@article{Sorzano2018,
  title = {A new algorithm for high-resolution reconstruction of single particles by electron
           microscopy},
  author = {Sorzano, C. O. S. and Vargas, J. and de la Rosa-Trevin, J. M. and others},
  journal = {Journal of Structural Biology},
  volume = {204},
  pages = {329--337},
  year = {2018}
}
"""

// Package tutorial tells the tutorials' story of macvlan with a real engine and weft as its
// managed plugin, on a kernel with VLANs: in the machine of package vm.
package tutorial

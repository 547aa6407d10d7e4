// Command weft is a Docker network and IPAM driver, and the operator's view of it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/weft-net/weft/internal/build"
)

// version is set by the linker at a release: -X main.version=1.2.3.
var version string

func main() {
	if err := command().ExecuteContext(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "weft:", err)
		if errors.As(err, new(startError)) {
			awaitEngine()
		}
		os.Exit(1)
	}
}

// command is the table of contents.
func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "weft",
		Short:         "Docker networks that every host of a cluster shares",
		Long:          "weft is a Docker network driver and IPAM driver in one managed plugin.\nThe commands below show and repair what the daemon of this host does.",
		Version:       build.Read(version).Version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(
		serveCommand(),
		statusCommand(),
		networksCommand(),
		endpointsCommand(),
		portsCommand(),
		ipamCommand(),
		hostListCommand("hosts"),
		hostCommand(),
		networkCommand(),
		namesCommand(),
		storeCommand(),
		resetCommand(),
		versionCommand(),
		manCommand(),
	)
	return root
}

"""The mesh configuration in force, as translators ask for it."""

from control.envoy.world import World
from control.kinds.mesh_config import NAME, MeshConfig, MeshOptions, OwnOptions


def mesh_options(world: World) -> MeshOptions:
    """What it says; without any, what holds by default."""
    config = world.find(MeshConfig, world.settings.root_namespace, NAME)
    return config.options() if config is not None else MeshOptions()


def own_options(world: World) -> OwnOptions:
    """What it says that is not Istio's."""
    config = world.find(MeshConfig, world.settings.root_namespace, NAME)
    return config.own_options() if config is not None else OwnOptions()

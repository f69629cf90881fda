"""What a process of the platform is made of: its life, and the roles it may play."""

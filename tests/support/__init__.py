"""What tests share: private servers, tiny models, processes to start and to kill."""
